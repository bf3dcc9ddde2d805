"""Examples in, trained weights out: `packing`, `loss`, `train_step`, and `trainer` on top."""
