"""What goes round a run: fitting it to a TPU, sweeping it, comparing and converting results."""
