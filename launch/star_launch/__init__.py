"""What the scripts of launch/ do: fetch.py, sweep.py and tpu_vm.py only call this package.

`fetch/` and `tpu_vm/` need Python 3.9 and nothing else; `sweep/` needs star_jax.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the checkout
