"""Where a task finds its place in the cluster: TF_CONFIG, Open MPI or SLURM, asked in this order."""
