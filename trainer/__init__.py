"""The method: advantages, live difficulty, selection of variants, and the TRL trainer that uses them."""
