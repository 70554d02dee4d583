"""The demo's problems, figures and models, and examples of configurations: the files beside this one."""
