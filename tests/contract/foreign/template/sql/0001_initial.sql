-- As `alembic upgrade head --sql` writes it.
CREATE TABLE schema_revision (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT schema_revision_pkc PRIMARY KEY (version_num)
);

CREATE TYPE role AS ENUM ('ADMIN', 'MEMBER');

CREATE TABLE "user" (
    id UUID NOT NULL,
    email VARCHAR(255) NOT NULL,
    is_active BOOLEAN NOT NULL,
    is_superuser BOOLEAN NOT NULL,
    full_name VARCHAR(255),
    hashed_password VARCHAR NOT NULL,
    role role NOT NULL,
    PRIMARY KEY (id)
);

CREATE UNIQUE INDEX ix_user_email ON "user" (email);

CREATE TABLE item (
    id UUID NOT NULL,
    title VARCHAR(255) NOT NULL,
    description VARCHAR(255),
    price FLOAT,
    "order" INTEGER NOT NULL,
    details JSON NOT NULL,
    tags VARCHAR[] NOT NULL,
    owner_id UUID NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(owner_id) REFERENCES "user" (id) ON DELETE CASCADE,
    UNIQUE (owner_id, title)
);

CREATE INDEX ix_item_title ON item (title);
CREATE INDEX ix_item_order ON item ("order");
CREATE INDEX ix_item_owner_id ON item (owner_id, "order");

INSERT INTO schema_revision (version_num) VALUES ('e2412789c190') RETURNING schema_revision.version_num;
