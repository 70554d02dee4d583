"""Other trainers that can use a store: each module needs the other project beside the base of this one."""
