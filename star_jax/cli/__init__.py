"""The command line: gin files, their errors, and everything that gin can bind."""
