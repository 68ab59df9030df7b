"""One asset on several devices and hosts.

`sharding` lays devices out as a mesh ("data", "model") and spreads views over it,
`parameters` splits a prior's; `launch` says which processes a run is made of, `hosts`
is what they share and agree on, `supervisor` watches over each of them, and all three
do nothing where there is one process. Training and main use it.
"""
