"""One machine: its devices, its model files, and the worker processes on it.

poold is its HTTP face and `rbees pool` its terminal face. Imports `protocol`, `service` and `clients`; knows no role.
"""
