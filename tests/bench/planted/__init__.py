"""Sound variants, planted faults and a solver for `planted_faults.py`; none of it looks at the checks."""
