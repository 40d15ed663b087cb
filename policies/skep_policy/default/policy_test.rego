package router_test

import data.router

neutral := "tnt:00000000-0000-0000-0000-000000000000"

# One tenant with agents, a senior agent and an operator; one neutral agent; one agent of another tenant.
record(kind, tenant, node, capabilities, extra) := object.union(
	{
		"type": kind, "ilk_type": kind, "human_subtype": "", "tenant": tenant, "tenant_id": tenant,
		"tenant_status": "active", "registration_status": "complete", "roles": [], "degrees": [],
		"capabilities": capabilities, "handler_node": node, "sealed": kind == "agent",
	},
	extra,
)

agents := {
	"ilk:1": record("agent", "tnt:a", "AI.one@h", ["billing", "default"], {}),
	"ilk:2": record("agent", "tnt:a", "AI.two@h", ["billing", "spanish"], {}),
	"ilk:3": record("agent", "tnt:a", "AI.senior@h", ["billing"], {"roles": ["senior"]}),
	"ilk:4": record("human", "tnt:a", "IO.desk@h", ["human_handover"], {"human_subtype": "internal"}),
	"ilk:5": record("agent", neutral, "AI.anybody@h", ["billing", "general"], {}),
	"ilk:6": record("agent", "tnt:b", "AI.other@h", ["billing", "default"], {}),
	"ilk:7": record("agent", "tnt:a", "AI.unsealed@h", ["billing", "unsealed"], {"sealed": false}),
	"ilk:8": record("agent", "tnt:a", "AI.partial@h", ["billing"], {"registration_status": "partial"}),
}

tags := {tag | some agent in agents; some tag in agent.capabilities}

capability_of(tenant) := {tag: {ilk: ilk | some ilk, agent in agents; agent.tenant == tenant; tag in agent.capabilities} |
	some tag in tags
}

tenants := {tenant: tenant_of(tenant, agents, {true}) | some tenant in {"tnt:a", "tnt:b", neutral}}

tenant_of(tenant, those, seals) := {
	"status": "active",
	"capability": capability_of(tenant),
	"ready": {tag: ready(tenant, tag, those, seals) | some agent in those; some tag in array.concat(agent.capabilities, [""])},
}

# As the router orders them.
ready(tenant, tag, those, seals) := {
	"agents": names(tenant, tag, those, seals, 0),
	"seniors": names(tenant, tag, those, seals, 1),
	"people": names(tenant, tag, those, {true, false}, 2),
}

names(tenant, tag, those, seals, level) := array.slice(
	sort([agent.handler_node |
		some agent in those
		agent.tenant == tenant
		agent.registration_status == "complete"
		agent.sealed in seals
		router.level(agent) == level
		has(agent, tag)
	]),
	0, 64,
)

has(agent, tag) if tag in agent.capabilities

has(agent, "") if some tag in ({"default", "general"} & {each | some each in agent.capabilities})

nodes := {agent.handler_node: ilk | some ilk, agent in agents}

customer := record("human", "tnt:a", "", [], {"human_subtype": "external"})

asked(message, src, config) := answer if {
	seals := {true} | {false | config.seals == "warn"}
	hive := {tenant: tenant_of(tenant, agents, seals) | some tenant in {"tnt:a", "tnt:b", neutral}}
	answer := router.target with input as {"meta": message, "routing": {"dst": null}, "src": src, "dst": null}
		with data.agents as agents
		with data.tenant as hive
		with data.node as nodes
		with data.config as config
}

may(message, routing, src, dst) if {
	router.allow with input as {"meta": message, "routing": routing, "src": src, "dst": dst}
		with data.config as {"identity": true}
}

needs(capability) := {"context": {"required_capability": capability}}

escalated(from) := {"action": "escalate", "context": {"required_capability": "billing", "escalated_from": from}}

# -- who answers ----------------------------------------------------------------------------------------

test_a_stranger_meets_the_front_desk if {
	stranger := object.union(customer, {"registration_status": "temporary"})
	asked({"src_ilk": "ilk:9"}, stranger, {}) == ["SY.frontdesk.gov"]
	asked({"src_ilk": "ilk:9"}, stranger, {"frontdesk": "SY.hall@h"}) == ["SY.hall@h"]
	asked(needs("billing"), stranger, {}) == ["SY.frontdesk.gov"]
}

test_who_the_identity_service_does_not_know_is_a_stranger if {
	asked({"src_ilk": "ilk:9"}, null, {"identity": true}) == ["SY.frontdesk.gov"]
	asked({"src_ilk": "ilk:9"}, null, {}) == ["AI.anybody@h"]
	asked({"src_ilk": "ilk:9"}, customer, {"identity": true}) == ["AI.one@h", "AI.anybody@h", "IO.desk@h"]
	asked({"src_ilk": ""}, null, {"identity": true}) == ["AI.anybody@h"]
}

test_agents_then_seniors_then_people_of_the_own_tenant_first if {
	asked(needs("billing"), customer, {}) == ["AI.one@h", "AI.two@h", "AI.anybody@h", "AI.senior@h", "IO.desk@h"]
}

test_all_capabilities_are_needed if {
	asked(needs(["billing", "spanish"]), customer, {}) == ["AI.two@h", "IO.desk@h"]
	asked(needs(["spanish", "billing"]), customer, {}) == ["AI.two@h", "IO.desk@h"]
	asked(needs(["spanish"]), customer, {}) == ["AI.two@h", "IO.desk@h"]
	asked(needs([]), customer, {}) == ["AI.one@h", "AI.anybody@h", "IO.desk@h"]
}

test_a_capability_that_nobody_has_leaves_the_people if {
	asked(needs("chess"), customer, {}) == ["IO.desk@h"]
	asked(needs("chess"), null, {}) == []
	asked(needs(17), customer, {}) == ["AI.one@h", "AI.anybody@h", "IO.desk@h"]
}

test_without_a_wish_the_general_agents_answer if {
	asked({}, customer, {}) == ["AI.one@h", "AI.anybody@h", "IO.desk@h"]
	asked({"context": null, "target": ""}, customer, {}) == ["AI.one@h", "AI.anybody@h", "IO.desk@h"]
}

test_a_target_is_a_node_or_a_capability if {
	asked({"target": "AI.two@h"}, customer, {}) == ["AI.two@h"]
	asked({"target": "IO.desk@h"}, customer, {}) == ["IO.desk@h"]
	asked({"target": "AI.anybody@h"}, customer, {}) == ["AI.anybody@h"]
	asked({"target": "AI.unsealed@h"}, customer, {}) == ["IO.desk@h"]
	asked({"target": "AI.unsealed@h"}, customer, {"seals": "warn"}) == ["AI.unsealed@h"]
	asked({"target": "spanish"}, customer, {}) == ["AI.two@h", "IO.desk@h"]
	asked({"target": "spanish", "context": {"required_capability": ""}}, customer, {}) == ["AI.two@h", "IO.desk@h"]
	asked({"target": "AI.other@h"}, customer, {}) == ["IO.desk@h"]
	asked({"target": "AI.partial@h"}, customer, {}) == ["IO.desk@h"]
}

test_an_escalation_goes_one_level_up if {
	asked(escalated("agent"), customer, {}) == ["AI.senior@h", "IO.desk@h"]
	asked(escalated("AI.one@h"), customer, {}) == ["AI.senior@h", "IO.desk@h"]
	asked(escalated("senior"), customer, {}) == ["IO.desk@h"]
	asked(escalated("AI.senior@h"), customer, {}) == ["IO.desk@h"]
	asked(escalated("IO.desk@h"), customer, {}) == ["IO.desk@h"]
	asked({"action": "escalate", "context": {"required_capability": "billing"}}, customer, {}) == ["AI.senior@h", "IO.desk@h"]
}

test_seniority_comes_by_role_or_by_degree if {
	asked(needs("billing"), customer, {})[3] == "AI.senior@h"
	graduate := {"ilk:1": object.union(agents["ilk:1"], {"degrees": ["senior"]})}
	class := object.union(agents, graduate)
	answer := router.target with input as {"meta": escalated("agent"), "src": customer}
		with data.agents as class
		with data.tenant as {"tnt:a": tenant_of("tnt:a", class, {true})}
	answer == ["AI.one@h", "AI.senior@h", "IO.desk@h"]
}

# A crowd with one capability; every second one is senior, and the last one speaks Spanish, too.
crowd := {sprintf("ilk:%d", [100 + n]): record("agent", "tnt:a", sprintf("AI.many%d@h", [100 + n]), tongues, {"roles": role}) |
	some n in numbers.range(0, 39)
	role := [["junior"], ["senior"]][n % 2]
	tongues := array.concat(["many", "english"], [tag | some tag in ["spanish", "rare"]; n == 38])
}

among_many(wish) := among(crowd, {"many", "english", "spanish", "chess"}, wish)

# Others beside the agents above; of what is ordered, only these tags are made.
among(others, wanted, wish) := answer if {
	all := object.union(agents, others)
	answer := router.target with input as {"meta": needs(wish), "src": customer}
		with data.agents as all
		with data.tenant as {"tnt:a": {
			"ready": {tag: ready("tnt:a", tag, all, {true}) | some tag in (wanted | {"human_handover"})},
			"capability": {tag: {ilk: ilk | some ilk, agent in all; tag in agent.capabilities} | some tag in wanted},
		}}
		with data.node as {agent.handler_node: ilk | some ilk, agent in all}
}

test_of_many_the_first_of_each_level_are_tried if {
	answer := among_many("many")
	count(answer) == 33
	array.slice(answer, 0, 2) == ["AI.many100@h", "AI.many102@h"]
	array.slice(answer, 15, 18) == ["AI.many130@h", "AI.many101@h", "AI.many103@h"]
	answer[32] == "IO.desk@h"
}

test_the_rarest_of_several_capabilities_is_looked_up if {
	among_many(["many", "spanish"]) == ["AI.many138@h", "IO.desk@h"]
	among_many(["many", "english", "chess"]) == ["IO.desk@h"]
	count(among_many(["many", "english"])) == 41
}

test_who_is_not_at_the_head_is_found_when_several_capabilities_are_needed if {
	few := {sprintf("ilk:%d", [n]): record("agent", "tnt:a", sprintf("AI.few%d@h", [n]), tags, {}) |
		some n in numbers.range(100, 170)
		tags := [tag | some tag, only in {"left": [170], "right": [170]}; some_of(n, tag, only)]
	}
	among(few, {"left", "right"}, ["left", "right"]) == ["AI.few170@h", "IO.desk@h"]
}

# Even numbers can do what is left, odd ones what is right, and a few can do both.
some_of(n, "left", _) if n % 2 == 0

some_of(n, "right", _) if n % 2 == 1

some_of(n, "right", only) if n in only

test_who_belongs_to_no_tenant_is_answered_by_who_belongs_to_none if {
	nobodys := object.union(customer, {"tenant": neutral, "tenant_status": "none"})
	asked(needs("billing"), nobodys, {}) == ["AI.anybody@h"]
	asked(needs(["billing", "general"]), nobodys, {}) == ["AI.anybody@h"]
	asked({"target": "AI.anybody@h"}, nobodys, {}) == ["AI.anybody@h"]
	asked({"target": 3}, nobodys, {}) == ["AI.anybody@h"]
}

test_seals_are_asked_for_unless_the_hive_says_otherwise if {
	asked(needs("unsealed"), customer, {}) == ["IO.desk@h"]
	asked(needs("unsealed"), customer, {"seals": "require"}) == ["IO.desk@h"]
	asked(needs("unsealed"), customer, {"seals": "warn"}) == ["AI.unsealed@h", "IO.desk@h"]
}

test_agents_of_a_suspended_tenant_do_not_answer if {
	suspended := {ilk: object.union(agent, {"tenant_status": "suspended"}) | some ilk, agent in agents}
	answer := router.target with input as {"meta": needs("billing"), "src": object.union(customer, {"tenant_status": "suspended"})}
		with data.agents as suspended
		with data.tenant as {"tnt:a": {"status": "suspended", "ready": {}}, neutral: tenants[neutral]}
	answer == ["AI.anybody@h"]
	named := router.target with input as {"meta": {"target": "AI.one@h"}, "src": customer}
		with data.agents as suspended
		with data.tenant as tenants
		with data.node as nodes
	named == ["IO.desk@h"]
}

test_without_any_data_nobody_answers if {
	answer := router.target with input as {"meta": {}, "src": null}
	answer == []
}

# -- what may happen ------------------------------------------------------------------------------------

ordinary := {"none", "send_message", "read", "write", "workflow_step"}

grave := {"system_config", "topology_change", "identity_change", "node_lifecycle", "external_action"}

operator := record("human", "tnt:a", "IO.desk@h", [], {"human_subtype": "internal"})

test_ordinary_messages_pass if {
	every class in ordinary {
		may({"action": "count", "action_class": class}, {"dst": "AI.one@h"}, customer, agents["ilk:1"])
	}
	may({}, {"dst": "AI.one@h"}, null, null)
	may({"action": "", "action_class": "", "src_ilk": ""}, {"dst": "AI.one@h"}, null, null)
}

test_grave_ones_are_for_the_house_and_the_system if {
	every class in grave {
		not may({"action_class": class}, {"dst": "AI.one@h"}, customer, null)
		not may({"action_class": class}, {"dst": "AI.one@h"}, agents["ilk:1"], null)
		not may({"action_class": class}, {"dst": "AI.one@h"}, null, null)
		may({"action_class": class}, {"dst": "AI.one@h"}, operator, null)
		may({"action_class": class}, {"dst": "AI.one@h"}, record("system", neutral, "SY.x@h", [], {}), null)
	}
}

test_system_status_is_for_the_house if {
	may({"action": "system_status"}, {"dst": "AI.one@h"}, operator, null)
	not may({"action": "system_status"}, {"dst": "AI.one@h"}, customer, null)
	not may({"action": "system_status"}, {"dst": "AI.one@h"}, null, null)
}

test_nobody_speaks_to_or_for_a_tenant_that_is_shut if {
	every status in {"pending", "suspended"} {
		shut := object.union(customer, {"tenant_status": status})
		not may({}, {"dst": "AI.one@h"}, shut, null)
		not may({}, {"dst": "AI.one@h"}, agents["ilk:1"], shut)
		not may({"action": "system_status"}, {"dst": "AI.one@h"}, object.union(operator, {"tenant_status": status}), null)
	}
}

test_a_stranger_speaks_to_the_front_desk_alone if {
	stranger := object.union(customer, {"registration_status": "temporary"})
	may({}, {"dst": "SY.frontdesk.gov"}, stranger, null)
	may({}, {"dst": "SY.frontdesk.gov@h"}, stranger, null)
	may({}, {"dst": null}, stranger, null)
	not may({}, {"dst": "AI.one@h"}, stranger, agents["ilk:1"])
	not may({}, {"dst": "SY.frontdesk.government"}, stranger, null)
	not may({"src_ilk": "ilk:9"}, {"dst": "AI.one@h"}, null, null)
	may({"src_ilk": "ilk:9"}, {"dst": "SY.frontdesk.gov"}, null, null)
}

test_a_question_without_an_answer_is_a_no if {
	not may({"action_class": "system_config"}, {}, {}, {})
}
