"""Devices and processes: the mesh and its rules, several hosts, the compilation cache."""
