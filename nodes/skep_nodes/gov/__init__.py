"""The front desk of a hive: it meets interlocutors who are not registered yet, and completes them in conversation.

`hearing` reads what somebody wrote, `sayings` is what the desk says (in each of its languages), `applicant` is what is
known of one who is being registered, `store` keeps that across restarts, `desk` decides and talks to SY.identity and to
IO.email. None of them knows of nodes and links; `skep_nodes.sy.frontdesk_gov` joins them to a hive.
"""

from __future__ import annotations
