"""For all tests: one thread each, since there is a process of tests for each core."""

import os

# Torch reads the number when it is imported, and so do the programs that tests start. On pictures
# as tiny as theirs more threads mostly wait for each other, three times the processor's time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
