CREATE TABLE user_account (
    id UUID NOT NULL,
    email VARCHAR NOT NULL,
    username VARCHAR(30),
    secret VARCHAR,
    is_active BOOLEAN NOT NULL,
    joined_at DATE NOT NULL,
    totp JSONB,
    sa_orm_sentinel INTEGER,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_user_account PRIMARY KEY (id)
);
COMMENT ON TABLE user_account IS 'User accounts for application access';
CREATE UNIQUE INDEX ix_user_account_email ON user_account (email);
CREATE UNIQUE INDEX ix_user_account_username ON user_account (username);

CREATE TABLE team (
    id UUID NOT NULL,
    name VARCHAR NOT NULL,
    kind VARCHAR(20) NOT NULL,
    is_public BOOLEAN NOT NULL,
    sa_orm_sentinel INTEGER,
    slug VARCHAR(100) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_team PRIMARY KEY (id),
    CONSTRAINT uq_team_slug UNIQUE (slug),
    CONSTRAINT ck_team_kind CHECK (kind IN ('open', 'closed'))
);
CREATE INDEX ix_team_name ON team (name);

CREATE TABLE team_member (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    team_id UUID NOT NULL,
    role VARCHAR(50) NOT NULL,
    is_owner BOOLEAN NOT NULL,
    sa_orm_sentinel INTEGER,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_team_member PRIMARY KEY (id),
    CONSTRAINT uq_team_member_user_id UNIQUE (user_id, team_id),
    CONSTRAINT ck_team_member_role CHECK (role in ('owner', 'member')),
    CONSTRAINT fk_team_member_user_id_user_account FOREIGN KEY(user_id)
      REFERENCES user_account (id) ON DELETE cascade,
    CONSTRAINT fk_team_member_team_id_team FOREIGN KEY(team_id)
      REFERENCES team (id) ON DELETE cascade
);
CREATE INDEX ix_team_member_team_id ON team_member (team_id);
