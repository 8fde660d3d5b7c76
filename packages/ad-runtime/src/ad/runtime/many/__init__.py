"""Many pictures: in chunks, by several processes or machines, into a file that is gone on with."""
