"""Identity without I/O, its stores, and what publishes it: everything that SY.identity is made of.

A request is an `action.Action`: `needs(view)` says which rows it must see, `run(view)` decides and changes them through
the `view.View`, raising `refusal.Refusal` to leave no trace. `service.Service` collects the actions that wait, loads
their rows, runs them, writes all changes in one synced transaction, publishes them in the regions, and only then
answers each: what was acknowledged is on the disk and visible.

    answer = await service.submit(action)          # dict with "status": "ok" or "error" and "error_code"

**Adding to it.** A package that keeps something beside interlocutors (degrees, modules, seals) writes actions of its
own and lists their verbs (`verb.Verb`: who may say it, payload → action) in a dict `VERBS`; SY.identity serves the
verbs of every package that `skep_nodes.sy.identity.EXTENSIONS` names, on the same store, in the same transactions.

    class Graduate:                                # an Action
        def needs(self, view):
            yield Ask(tables.ILKS, "ilk_id", self.ilk)                       # the agent
            yield Ask(tables.GRADUATIONS, "ilk_id", self.ilk)                # what it has had
            yield Ask(tables.DOCUMENTS, "document_key", document_key("degree", self.name, self.version))

        def run(self, view):
            agent = view.ilk(self.ilk)
            if agent is None: raise Refusal(Code.ILK_NOT_FOUND, "…")
            graduation = Graduation(view.new_id(), self.ilk, degree, version, seal, valid_until_ms=…, issuer=…)
            graduations.grant(view, graduation, actor, reason)               # row, the ILK's seal status, audit
            return {"status": "ok", …}

- `documents.publish(view, kind, name, version, body, actor)`: an immutable version (Refusal IMMUTABLE for another body
  under the same version; the same body again is fine). `documents.versions(view, kind, name)` after asking for
  `documents.ask_series(kind, name)`; `documents.ask_kind(kind)` for everything of one kind;
  `documents.deprecate(view, document, actor, reason)`.
- `graduations.grant(view, graduation, actor, reason)`, `graduations.revoke(view, graduation, actor, reason)`,
  `graduations.set_seal(view, ilk, status, actor, reason)`: each writes the row and sets `Ilk.seal`, `Ilk.seal_until_ms`
  and `Ilk.degrees`, which is what the ilks region shows (`IlkRecord.seal`, `.seal_until_ms`, `.degrees`). When
  `seal_until_ms` has passed, the service itself sets EXPIRED and publishes that as a change.
- `view.graduations_of(ilk)` lists all an agent ever had, oldest first; `graduations.current(view, ilk)` the valid one.
- Times are Unix milliseconds; `view.now_ms` is the only clock; `view.new_id()` the only source of ids.

Modules: `ids`, `records`, `refusal` (words); `tables`, `view`, `action` (how rows are seen and changed); `channels`,
`people`, `merging`, `tenants`, `reading`, `expiry`, `graduations`, `documents` (what can be done); `fields`, `verb`,
`verbs`, `callers` (who may ask for what); `store`, `sqlite`, `postgres` (where rows are); `service` (groups),
`publisher` (regions), `first_start` and `transfer` (files).
"""
