-- Rows are found by their key, so tables are kept in its order (WITHOUT ROWID): an insert touches one page less.
-- Names and states are unique among the living only, so those indexes are partial.

CREATE TABLE identity_tenants (
    tenant_id BLOB PRIMARY KEY NOT NULL CHECK (length(tenant_id) = 16),
    name TEXT NOT NULL,
    name_key TEXT NOT NULL,
    domain TEXT NOT NULL,
    status INTEGER NOT NULL,
    settings TEXT NOT NULL,
    requested_by BLOB NOT NULL,
    approved_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    row_check INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX identity_tenants_name ON identity_tenants (name_key);
CREATE UNIQUE INDEX identity_tenants_domain ON identity_tenants (domain) WHERE domain <> '';

CREATE TABLE identity_ilks (
    ilk_id BLOB PRIMARY KEY NOT NULL CHECK (length(ilk_id) = 16),
    ilk_type INTEGER NOT NULL,
    subtype INTEGER NOT NULL,
    registration_status INTEGER NOT NULL,
    tenant_id BLOB NOT NULL REFERENCES identity_tenants DEFERRABLE INITIALLY DEFERRED,
    email TEXT NOT NULL,
    node_name TEXT NOT NULL,
    identification TEXT NOT NULL,
    roles TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    live INTEGER NOT NULL,
    canonical_ilk_id BLOB NOT NULL,
    alias_expires_at INTEGER NOT NULL,
    seal_status INTEGER NOT NULL,
    seal_expires_at INTEGER NOT NULL,
    degrees TEXT NOT NULL,
    registered_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER NOT NULL,
    row_check INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX identity_ilks_email ON identity_ilks (email, tenant_id) WHERE live = 1 AND email <> '';
CREATE UNIQUE INDEX identity_ilks_node_name ON identity_ilks (node_name) WHERE live = 1 AND node_name <> '';
CREATE INDEX identity_ilks_canonical ON identity_ilks (canonical_ilk_id) WHERE live = 0;
CREATE INDEX identity_ilks_alias_due ON identity_ilks (alias_expires_at) WHERE alias_expires_at > 0 AND deleted_at = 0;
CREATE INDEX identity_ilks_seal_due ON identity_ilks (seal_expires_at) WHERE seal_expires_at > 0 AND seal_status = 1;

CREATE TABLE identity_ichs (
    ich_id BLOB PRIMARY KEY NOT NULL CHECK (length(ich_id) = 16),
    ilk_id BLOB NOT NULL REFERENCES identity_ilks DEFERRABLE INITIALLY DEFERRED,
    tenant_id BLOB NOT NULL,
    channel_type TEXT NOT NULL,
    address TEXT NOT NULL,
    look_up BLOB NOT NULL,
    is_primary INTEGER NOT NULL,
    added_at INTEGER NOT NULL,
    row_check INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX identity_ichs_look_up ON identity_ichs (look_up);
CREATE INDEX identity_ichs_ilk ON identity_ichs (ilk_id);

CREATE TABLE identity_merges (
    merge_id BLOB PRIMARY KEY NOT NULL,
    source_ilk_id BLOB NOT NULL,
    target_ilk_id BLOB NOT NULL,
    merged_at INTEGER NOT NULL,
    merged_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    moved TEXT NOT NULL,
    repointed TEXT NOT NULL,
    split_at INTEGER NOT NULL,
    split_by TEXT NOT NULL,
    split_reason TEXT NOT NULL,
    row_check INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX identity_merges_source ON identity_merges (source_ilk_id);
CREATE INDEX identity_merges_target ON identity_merges (target_ilk_id);

CREATE TABLE identity_graduations (
    graduation_id BLOB PRIMARY KEY NOT NULL,
    ilk_id BLOB NOT NULL REFERENCES identity_ilks DEFERRABLE INITIALLY DEFERRED,
    degree_id BLOB NOT NULL,
    degree_version INTEGER NOT NULL,
    seal BLOB NOT NULL,
    status INTEGER NOT NULL,
    issuer TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    valid_until INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    row_check INTEGER NOT NULL
);
CREATE INDEX identity_graduations_ilk ON identity_graduations (ilk_id);
CREATE INDEX identity_graduations_degree ON identity_graduations (degree_id);

CREATE TABLE identity_documents (
    document_key BLOB PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    series TEXT NOT NULL,
    body BLOB NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deprecated_at INTEGER NOT NULL,
    row_check INTEGER NOT NULL
);
CREATE INDEX identity_documents_series ON identity_documents (series);
CREATE INDEX identity_documents_kind ON identity_documents (kind);
CREATE TRIGGER identity_documents_stay BEFORE UPDATE ON identity_documents
WHEN old.body <> new.body OR old.series <> new.series OR old.version <> new.version
BEGIN SELECT RAISE(ABORT, 'a published document never changes'); END;
CREATE TRIGGER identity_documents_keep BEFORE DELETE ON identity_documents
BEGIN SELECT RAISE(ABORT, 'a published document is never removed'); END;

CREATE TABLE identity_vocabulary (
    tag TEXT PRIMARY KEY NOT NULL,
    category TEXT NOT NULL,
    description TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deprecated_at INTEGER NOT NULL,
    row_check INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE identity_facts (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL,
    row_check INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE identity_audit (
    seq INTEGER PRIMARY KEY NOT NULL,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    ilk_id BLOB NOT NULL,
    tenant_id BLOB NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    chain BLOB NOT NULL,
    row_check INTEGER NOT NULL
);
CREATE INDEX identity_audit_ilk ON identity_audit (ilk_id);
CREATE TRIGGER identity_audit_stay BEFORE UPDATE ON identity_audit
BEGIN SELECT RAISE(ABORT, 'the audit chain is only ever added to'); END;
CREATE TRIGGER identity_audit_keep BEFORE DELETE ON identity_audit
BEGIN SELECT RAISE(ABORT, 'the audit chain is only ever added to'); END;
