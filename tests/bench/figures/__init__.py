"""The testbed `figures`: counting drawn shapes, easy on clean figures and hard on perturbed ones."""
