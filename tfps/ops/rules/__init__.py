"""The update rules, one file for each family of optimizers; `tfps.ops.row_rules` collects them."""
