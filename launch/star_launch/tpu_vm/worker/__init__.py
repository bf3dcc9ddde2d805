"""What runs on the workers of a TPU VM, with the Python of its image and nothing else.

`tpu_worker.py` is sent alone, before anything else is there. `environment.py` and `supervise.py`
are in the code that it unpacks.
"""
