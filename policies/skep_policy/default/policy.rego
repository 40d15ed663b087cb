# METADATA
# title: The default policy
# description: >-
#   Who answers a message that names nobody, and whether a new flow may happen.
#   Look-ups are keyed and lists are ordered beforehand, so a decision costs the same with a hundred agents and with
#   ten thousand. What is asked most often is answered by the first body of a rule.
# scope: package
package router

# -- who answers ------------------------------------------------------------------------------------

# METADATA
# title: Who answers
# description: >-
#   Names of nodes, best first: the front desk for strangers; the node that the sender names; else agents,
#   then senior agents, then people, of the sender's tenant before those of no tenant. Sixteen of a level are enough to
#   find one that is there; each name more makes the decision longer. The first body is the question that is asked most:
#   a registered sender wants one capability, and nobody without a tenant has it. The third says the same of any tenant.
# entrypoint: true
default target := []

target := array.concat(
	array.slice(mine.agents, 0, 16),
	array.concat(array.slice(mine.seniors, 0, 16), object.get(us, ["human_handover", "people"], [])),
) if {
	input.src.registration_status == "complete"
	not input.meta.target
	not input.meta.action == "escalate"
	us := data.tenant[input.src.tenant].ready
	tag := input.meta.context.required_capability
	mine := us[tag]
	not elsewhere(tag)
} else := [front_desk] if {
	stranger
} else := [input.meta.target] if {
	named_node
} else := array.concat(
	array.slice(array.concat(object.get(mine, "agents", []), object.get(theirs, "agents", [])), 0, 16),
	array.concat(
		array.slice(array.concat(object.get(mine, "seniors", []), object.get(theirs, "seniors", [])), 0, 16),
		array.concat(object.get(us, ["human_handover", "people"], []), object.get(them, ["human_handover", "people"], [])),
	),
) if {
	not input.meta.action == "escalate"
	tag := plain
	us := own
	them := common
	mine := object.get(us, tag, {})
	theirs := object.get(them, tag, {})
} else := array.concat(agents, people)

# METADATA
# title: The front desk
# description: The node that meets strangers; the hive's configuration may name another.
# scope: document
default front_desk := "SY.frontdesk.gov"

front_desk := data.config.frontdesk if data.config.frontdesk != ""

# METADATA
# title: Strangers
# description: >-
#   Interlocutors that are not registered yet, and, where the hive has an identity service, those it does not know.
# scope: document
stranger if input.src.registration_status == "temporary"

stranger if {
	not input.src.registration_status
	data.config.identity == true
	input.meta.src_ilk != ""
}

# METADATA
# title: The sender names a node
# description: It answers if it is ready and of the sender's tenant, or of none.
# scope: document
named_node if {
	node := data.agents[data.node[input.meta.target]]
	near(node.tenant)
	ready(node)
}

# METADATA
# title: Of the sender's tenant, or of none
# scope: document
near(tenant) if tenant == input.src.tenant

near(tenant) if tenant == neutral

# METADATA
# title: Who is ready in the sender's own tenant
# description: By capability, level and name. Nobody is, while the tenant is shut.
# scope: document
default own := {}

own := data.tenant[input.src.tenant].ready if input.src.tenant != "tnt:00000000-0000-0000-0000-000000000000"

# METADATA
# title: Who is ready and belongs to no tenant
# scope: document
default common := {}

common := data.tenant["tnt:00000000-0000-0000-0000-000000000000"].ready

# METADATA
# title: Somebody without a tenant answers, too
# description: To one capability, or to it by a human's hand.
# scope: document
elsewhere(tag) if {
	them := data.tenant["tnt:00000000-0000-0000-0000-000000000000"].ready
	some name in [tag, "human_handover"]
	them[name]
}

# METADATA
# title: What the sender asks for
# description: A capability, or a list of them, all of which are needed.
# scope: document
wish := input.meta.context.required_capability

# METADATA
# title: The one capability that most questions ask for
# description: Under "" stands who answers when nothing is asked for.
# scope: document
plain := wish if {
	is_string(wish)
	wish != ""
} else := input.meta.target if {
	not wish
	is_string(input.meta.target)
} else := "" if {
	not wish
}

# -- who answers a particular question --------------------------------------------------------------

# METADATA
# title: Agents that may answer
# description: >-
#   Those at the heads of the lists. Only who asks for several capabilities, and finds nobody there who has them all,
#   has everybody looked through.
# scope: document
agents := heads if {
	count(heads) > 0
} else := heads if {
	not several
} else := [entry[2] | some entry in sort(everybody)]

# METADATA
# title: People that may answer
# description: Operators of the house with the capability "human_handover", after all agents.
# scope: document
people := [name | some home in homes; some name in data.tenant[home].ready.human_handover.people]

# METADATA
# title: Agents at the heads of the lists, as they are tried
# scope: document
heads := [name |
	some level in array.slice(["agents", "seniors"], lowest, 2)
	some home in homes
	some name in array.slice(data.tenant[home].ready[look_up][level], 0, 32)
	not lacks(name)
]

# METADATA
# title: All agents with the rarest capability, looked through
# description: Each as [level, home, node], which sorts as they are tried.
# scope: document
everybody := [[rank, home, node] |
	some home, tenant in homes
	some ilk in data.tenant[tenant].capability[look_up]
	agent := data.agents[ilk]
	agent.type == "agent"
	ready(agent)
	node := agent.handler_node
	not lacks(node)
	rank := seniority(agent)
	rank >= lowest
]

# METADATA
# title: Tenants whose agents may answer, nearest first
# scope: document
homes := array.concat([tenant | count(own) > 0; tenant := input.src.tenant], [neutral])

# METADATA
# title: The tenant of those who belong to no tenant
# scope: document
neutral := "tnt:00000000-0000-0000-0000-000000000000"

# METADATA
# title: The capability to look up
# description: Of several the rarest, because the others are checked for each agent that has it.
# scope: document
default look_up := ""

look_up := rarest if {
	several
} else := wish[0] if {
	is_array(wish)
} else := plain if {
	plain
} else := input.meta.target

# METADATA
# title: Several capabilities are asked for
# scope: document
several if {
	is_array(wish)
	count(wish) > 1
}

# METADATA
# title: The rarest of several capabilities
# scope: document
rarest := min([[sum(sizes), tag] |
	some tag in wish
	sizes := [count(found) | some home in homes; found := data.tenant[home].capability[tag]]
])[1]

# METADATA
# title: Lacks something
# description: One of several capabilities that are asked for.
# scope: document
lacks(name) if {
	several
	agent := data.agents[data.node[name]]
	some tag in wish
	not tag in agent.capabilities
}

# METADATA
# title: Ready to answer
# description: Registered in full, of no tenant that waits or is suspended, with a node, and sealed if it is an agent.
# scope: document
ready(record) if {
	record.registration_status == "complete"
	record.handler_node != ""
	record.sealed in seals
	not shut(record.tenant_status)
}

ready(record) if {
	record.type != "agent"
	record.registration_status == "complete"
	record.handler_node != ""
	not shut(record.tenant_status)
}

# METADATA
# title: Seals that agents may have
# description: A valid one, unless the hive's configuration says that seals are not required.
# scope: document
default seals := {true}

seals := {true, false} if data.config.seals in {"off", "warn"}

# METADATA
# title: Level
# description: 0 agents, 1 senior agents, 2 people.
# scope: document
level(record) := 2 if {
	record.type == "human"
} else := seniority(record)

# METADATA
# title: Seniority
# description: By role or by degree.
# scope: document
seniority(agent) := 1 if {
	"senior" in agent.roles
} else := 1 if {
	"senior" in agent.degrees
} else := 0

# METADATA
# title: The lowest level that may answer
# description: >-
#   The action "escalate" goes to the level above the one it comes from: "agent", "senior", "human", or a node's name,
#   in context.escalated_from.
# scope: document
default lowest := 0

lowest := above if input.meta.action == "escalate"

# METADATA
# title: The level above that of an escalation's origin
# scope: document
above := min([level(record) + 1, 2]) if {
	record := data.agents[data.node[input.meta.context.escalated_from]]
} else := 2 if {
	input.meta.context.escalated_from in {"senior", "human"}
} else := 1

# -- what may happen --------------------------------------------------------------------------------

# METADATA
# title: What may happen
# description: >-
#   Ordinary messages between parties whose tenants are in order; sensitive ones from people of the house and from the
#   system. A stranger speaks to the front desk alone.
# entrypoint: true
default allow := false

allow if {
	not blocked
	not sensitive
} else if {
	not blocked
	trusted
}

# METADATA
# title: Grave classes of actions
# description: What changes the hive or acts outside it.
# scope: document
grave := {
	"system_config",
	"topology_change",
	"identity_change",
	"node_lifecycle",
	"external_action",
}

# METADATA
# title: Sensitive
# description: What is grave, and what shows the hive's insides.
# scope: document
sensitive if grave[input.meta.action_class]

sensitive if input.meta.action == "system_status"

# METADATA
# title: Trusted
# description: People of the house, and the system itself.
# scope: document
trusted if input.src.type == "system"

trusted if {
	input.src.type == "human"
	input.src.human_subtype == "internal"
	input.src.registration_status == "complete"
}

# METADATA
# title: Blocked
# description: Whatever it is about.
# scope: document
blocked if shut(input.src.tenant_status)

blocked if shut(input.dst.tenant_status)

blocked if {
	stranger
	not to_front_desk
}

# METADATA
# title: Shut
# description: The status of a tenant that waits for approval or is suspended.
# scope: document
shut(status) if status == "suspended"

shut(status) if status == "pending"

# METADATA
# title: To the front desk
# description: By its name, with or without the hive, or to nobody, which for a stranger is the front desk.
# scope: document
to_front_desk if input.routing.dst in {front_desk, null, ""}

to_front_desk if split(input.routing.dst, "@")[0] == split(front_desk, "@")[0]
