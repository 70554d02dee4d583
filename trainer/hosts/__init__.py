"""Modules for other trainers that use a store. Each needs the package of that trainer and the base of this project."""
