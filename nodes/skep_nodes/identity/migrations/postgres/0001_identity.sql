-- The same schema as for SQLite. Ids are sixteen bytes; `json` keeps a text as it was written, which the row check needs.
-- Names and states are unique among the living only, so those indexes are partial.

CREATE TABLE identity_tenants (
    tenant_id bytea PRIMARY KEY NOT NULL CHECK (length(tenant_id) = 16),
    name text NOT NULL,
    name_key text NOT NULL,
    domain text NOT NULL,
    status bigint NOT NULL,
    settings json NOT NULL,
    requested_by bytea NOT NULL,
    approved_by text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    row_check bigint NOT NULL
);
CREATE UNIQUE INDEX identity_tenants_name ON identity_tenants (name_key);
CREATE UNIQUE INDEX identity_tenants_domain ON identity_tenants (domain) WHERE domain <> '';

CREATE TABLE identity_ilks (
    ilk_id bytea PRIMARY KEY NOT NULL CHECK (length(ilk_id) = 16),
    ilk_type bigint NOT NULL,
    subtype bigint NOT NULL,
    registration_status bigint NOT NULL,
    tenant_id bytea NOT NULL REFERENCES identity_tenants DEFERRABLE INITIALLY DEFERRED,
    email text NOT NULL,
    node_name text NOT NULL,
    identification json NOT NULL,
    roles text NOT NULL,
    capabilities text NOT NULL,
    live bigint NOT NULL,
    canonical_ilk_id bytea NOT NULL,
    alias_expires_at bigint NOT NULL,
    seal_status bigint NOT NULL,
    seal_expires_at bigint NOT NULL,
    degrees text NOT NULL,
    registered_by text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    deleted_at bigint NOT NULL,
    row_check bigint NOT NULL
);
CREATE UNIQUE INDEX identity_ilks_email ON identity_ilks (email, tenant_id) WHERE live = 1 AND email <> '';
CREATE UNIQUE INDEX identity_ilks_node_name ON identity_ilks (node_name) WHERE live = 1 AND node_name <> '';
CREATE INDEX identity_ilks_canonical ON identity_ilks (canonical_ilk_id) WHERE live = 0;
CREATE INDEX identity_ilks_alias_due ON identity_ilks (alias_expires_at) WHERE alias_expires_at > 0 AND deleted_at = 0;
CREATE INDEX identity_ilks_seal_due ON identity_ilks (seal_expires_at) WHERE seal_expires_at > 0 AND seal_status = 1;

CREATE TABLE identity_ichs (
    ich_id bytea PRIMARY KEY NOT NULL CHECK (length(ich_id) = 16),
    ilk_id bytea NOT NULL REFERENCES identity_ilks DEFERRABLE INITIALLY DEFERRED,
    tenant_id bytea NOT NULL,
    channel_type text NOT NULL,
    address text NOT NULL,
    look_up bytea NOT NULL,
    is_primary bigint NOT NULL,
    added_at bigint NOT NULL,
    row_check bigint NOT NULL
);
CREATE UNIQUE INDEX identity_ichs_look_up ON identity_ichs (look_up);
CREATE INDEX identity_ichs_ilk ON identity_ichs (ilk_id);

CREATE TABLE identity_merges (
    merge_id bytea PRIMARY KEY NOT NULL,
    source_ilk_id bytea NOT NULL,
    target_ilk_id bytea NOT NULL,
    merged_at bigint NOT NULL,
    merged_by text NOT NULL,
    reason text NOT NULL,
    moved text NOT NULL,
    repointed text NOT NULL,
    split_at bigint NOT NULL,
    split_by text NOT NULL,
    split_reason text NOT NULL,
    row_check bigint NOT NULL
);
CREATE INDEX identity_merges_source ON identity_merges (source_ilk_id);
CREATE INDEX identity_merges_target ON identity_merges (target_ilk_id);

CREATE TABLE identity_graduations (
    graduation_id bytea PRIMARY KEY NOT NULL,
    ilk_id bytea NOT NULL REFERENCES identity_ilks DEFERRABLE INITIALLY DEFERRED,
    degree_id bytea NOT NULL,
    degree_version bigint NOT NULL,
    seal bytea NOT NULL,
    status bigint NOT NULL,
    issuer text NOT NULL,
    issued_at bigint NOT NULL,
    valid_until bigint NOT NULL,
    revoked_at bigint NOT NULL,
    reason text NOT NULL,
    row_check bigint NOT NULL
);
CREATE INDEX identity_graduations_ilk ON identity_graduations (ilk_id);
CREATE INDEX identity_graduations_degree ON identity_graduations (degree_id);

CREATE TABLE identity_documents (
    document_key bytea PRIMARY KEY NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    version bigint NOT NULL,
    series text NOT NULL,
    body bytea NOT NULL,
    created_by text NOT NULL,
    created_at bigint NOT NULL,
    deprecated_at bigint NOT NULL,
    row_check bigint NOT NULL
);
CREATE INDEX identity_documents_series ON identity_documents (series);
CREATE INDEX identity_documents_kind ON identity_documents (kind);
CREATE FUNCTION identity_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$;
CREATE TRIGGER identity_documents_stay BEFORE UPDATE ON identity_documents FOR EACH ROW
WHEN (old.body <> new.body OR old.series <> new.series OR old.version <> new.version)
EXECUTE FUNCTION identity_refuse('a published document never changes');
CREATE TRIGGER identity_documents_keep BEFORE DELETE ON identity_documents FOR EACH ROW
EXECUTE FUNCTION identity_refuse('a published document is never removed');

CREATE TABLE identity_vocabulary (
    tag text PRIMARY KEY NOT NULL,
    category text NOT NULL,
    description text NOT NULL,
    created_at bigint NOT NULL,
    deprecated_at bigint NOT NULL,
    row_check bigint NOT NULL
);

CREATE TABLE identity_facts (
    name text PRIMARY KEY NOT NULL,
    value text NOT NULL,
    row_check bigint NOT NULL
);

CREATE TABLE identity_audit (
    seq bigint PRIMARY KEY NOT NULL,
    at_ms bigint NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    ilk_id bytea NOT NULL,
    tenant_id bytea NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    chain bytea NOT NULL,
    row_check bigint NOT NULL
);
CREATE INDEX identity_audit_ilk ON identity_audit (ilk_id);
CREATE TRIGGER identity_audit_stay BEFORE UPDATE OR DELETE ON identity_audit FOR EACH ROW
EXECUTE FUNCTION identity_refuse('the audit chain is only ever added to');
