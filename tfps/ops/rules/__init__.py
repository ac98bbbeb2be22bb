"""The rules, a file for each family of optimizers; `tfps.ops.row_rules` collects them."""
