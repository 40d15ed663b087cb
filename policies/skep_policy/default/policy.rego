# METADATA
# title: The default policy
# description: >-
#   Who answers a message that names nobody, and whether a new flow may happen.
#   Look-ups are keyed, so a decision costs the same with a hundred agents and with ten thousand.
# scope: package
package router

# -- who answers ------------------------------------------------------------------------------------

# METADATA
# title: Who answers
# description: >-
#   Names of nodes, best first: the front desk for strangers; the node that the sender names; else agents,
#   then senior agents, then people, of the sender's tenant before those of no tenant.
# entrypoint: true
default target := []

target := [front_desk] if {
	stranger
} else := [input.meta.target] if {
	named_node
} else := [entry[2] | some entry in ordered(array.concat(agents, people))]

# METADATA
# title: In the order in which they are tried
# description: >-
#   By level, then the own tenant, then name. Sorting compares each with each, so the names of many stay unsorted.
# scope: document
ordered(entries) := sort(entries) if {
	count(entries) <= 32
} else := array.concat(
	[entry | some entry in entries; entry[0] == 0],
	[entry | some entry in entries; entry[0] > 0],
)

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
	data.config.identity == true
	input.meta.src_ilk != ""
	not known
}

# METADATA
# title: The speaker has a record
# scope: document
known if is_string(input.src.type)

# METADATA
# title: The sender names a node
# description: It answers if it is ready and of the sender's tenant, or of none.
# scope: document
named_node if {
	node := data.agents[data.node[input.meta.target]]
	ready(node)
	node.tenant in homes
}

# METADATA
# title: The tenant of those who belong to no tenant
# scope: document
neutral := "tnt:00000000-0000-0000-0000-000000000000"

# METADATA
# title: Tenants whose agents may answer
# description: The sender's own first, unless it is shut, then none.
# scope: document
default homes := ["tnt:00000000-0000-0000-0000-000000000000"]

homes := [input.src.tenant, neutral] if {
	is_string(input.src.tenant)
	input.src.tenant != neutral
	not shut(input.src.tenant_status)
}

# METADATA
# title: Capabilities that the sender asks for
# description: All of them are needed. Without any, who can do "default" or "general" things answers.
# scope: document
default required := []

required := [wish] if {
	wish := input.meta.context.required_capability
	is_string(wish)
	wish != ""
} else := wishes if {
	wishes := input.meta.context.required_capability
	is_array(wishes)
	count(wishes) > 0
} else := [wish] if {
	wish := input.meta.target
	is_string(wish)
	wish != ""
}

# METADATA
# title: Capabilities to look up
# description: The first one that is asked for; the others are checked for each agent that has it.
# scope: document
default look_up := ["default", "general"]

look_up := [required[0]] if count(required) > 0

# METADATA
# title: Agents that may answer
# description: Each as [level, home, node], which sorts as they are tried.
# scope: document
agents := [[rank, home, node] |
	some home, tenant in homes
	some tag in look_up
	some ilk in data.tenant[tenant].capability[tag]
	agent := data.agents[ilk]
	agent.type == "agent"
	agent.registration_status == "complete"
	agent.sealed in seals
	node := agent.handler_node
	node != ""
	not lacks(agent)
	rank := seniority(agent)
	rank >= lowest
]

# METADATA
# title: People that may answer
# description: Operators of the house with the capability "human_handover", after all agents.
# scope: document
people := [[2, home, node] |
	some home, tenant in homes
	some ilk in data.tenant[tenant].capability.human_handover
	person := data.agents[ilk]
	person.type == "human"
	person.human_subtype == "internal"
	person.registration_status == "complete"
	node := person.handler_node
	node != ""
]

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
# title: Lacks something
# description: The first capability that is asked for has been looked up already.
# scope: document
lacks(agent) if {
	some tag in others
	not tag in agent.capabilities
}

# METADATA
# title: The other capabilities that are asked for
# scope: document
default others := []

others := array.slice(required, 1, count(required)) if count(required) > 1

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
}

allow if {
	not blocked
	sensitive
	trusted
}

# METADATA
# title: Sensitive
# description: What changes the hive or acts outside it, and what shows its insides.
# scope: document
sensitive if input.meta.action_class in {
	"system_config",
	"topology_change",
	"identity_change",
	"node_lifecycle",
	"external_action",
}

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
shut(status) if status in {"pending", "suspended"}

# METADATA
# title: To the front desk
# description: By its name, with or without the hive, or to nobody, which for a stranger is the front desk.
# scope: document
to_front_desk if input.routing.dst in {front_desk, null, ""}

to_front_desk if split(input.routing.dst, "@")[0] == split(front_desk, "@")[0]
