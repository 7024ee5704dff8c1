CREATE SEQUENCE audit_log_id_seq;
CREATE TABLE audit_log (
    id BIGINT NOT NULL,
    actor_id UUID,
    action VARCHAR(100) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_audit_log PRIMARY KEY (id),
    CONSTRAINT fk_audit_log_actor_id_user_account FOREIGN KEY(actor_id)
      REFERENCES user_account (id) ON DELETE SET NULL
);
CREATE INDEX ix_audit_log_actor_id ON audit_log (actor_id);
CREATE INDEX ix_audit_log_action ON audit_log (action);
CREATE TABLE team_tag (
    team_id UUID NOT NULL,
    tag VARCHAR(50) NOT NULL,
    CONSTRAINT pk_team_tag PRIMARY KEY (team_id, tag),
    CONSTRAINT fk_team_tag_team_id_team FOREIGN KEY(team_id) REFERENCES team (id) ON DELETE CASCADE
);
