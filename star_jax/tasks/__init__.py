"""Tasks: what is asked, how it is hinted at, how the answer is read, and the data, as seqio Tasks.

Importing this package registers the paper's tasks in `seqio.TaskRegistry`.
"""

from star_jax.tasks import arithmetic as arithmetic
from star_jax.tasks import commonsense_qa as commonsense_qa
from star_jax.tasks import gsm8k as gsm8k
