"""System nodes: one process for each thing that a hive must own.

    SY.config.routes   config_*       routes, VPN rules, grants, limits
    SY.threads         thread*        which conversation is bound to whom
    SY.opa.rules       opa_*          the policy: compiled, signed, in force, before, on trial
    SY.identity        identity*      who is who; its core is `skep_nodes.identity`
    SY.registrar       registrar      what agents are taught; its core is `skep_nodes.degrees`
    SY.frontdesk.gov   frontdesk_gov  who meets strangers; its core is `skep_nodes.gov`
    SY.decisions       decisions*     what the policy decided
    SY.tap             tap            a copy of every turn

Each module named like a node is a shell: sockets, clock, answers. Beside it stand the cores that decide, which know of
none of these, and what all share: `system_node` (arguments, signs of life), `standing` (who asks), `durable`, `spool`
(files that survive a crash).
"""
