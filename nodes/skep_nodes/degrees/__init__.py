"""What agents are taught, and who says so: modules, degrees, graduations, the registrar's key.

Everything here is without sockets; `skep_nodes.sy.registrar` is the node around it, and the only process that writes
these files. How a seal is checked is `skep.seal`, which every agent has.
"""
