"""What runs on the workers of a TPU VM.

`tpu_worker.py` is sent alone, before anything else is there. `environment.py` and `supervise.py`
are in the code that it unpacks. All three need the Python of the TPU VM's image and nothing else;
`process_flag.py` runs in the environment, where star_jax is installed.
"""
