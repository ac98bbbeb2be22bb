"""Where the tasks of a cluster can be reached: each listens at one address, and its listening sockets are checked."""
