"""What the proxy costs, beside its peers (`make bench`), and how that grows (`make bench-growth`).

One core has the proxy, another the load and the stand-in for the provider, so each figure is of
one core. All is on loopback, and all that is started is ended.

- processes: starting, pinning, ending; what a process and its children cost
- targets: what is measured, and how each is started
- load: clients by the hundred, which look at every answer
- measure: the scenarios, from a target to its figures
- report: figures to tables
- stand_in: the provider, in nginx and Lua, so that it never is the bottleneck
- growth, plot: the second command
"""
