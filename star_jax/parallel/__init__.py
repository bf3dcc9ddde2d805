"""Devices and processes: the mesh and its rules, several hosts, TPU topologies."""
