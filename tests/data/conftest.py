"""The stores that tests of `tfps.data` read."""

from tests.stores.fixtures import bucket, moto, namenode, store

__all__ = ["bucket", "moto", "namenode", "store"]
