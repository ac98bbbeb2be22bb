"""The cluster: who is where (TF_CONFIG), the servers of this machine, and what to make of their failures."""
