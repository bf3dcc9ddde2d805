"""What a report is made of: runs read from disk, the paper's numbers, tables, figures, the page."""
