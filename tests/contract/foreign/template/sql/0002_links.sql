BEGIN;

CREATE TABLE link (
    left_id UUID NOT NULL,
    right_id UUID NOT NULL,
    "group" VARCHAR,
    PRIMARY KEY (left_id, right_id),
    FOREIGN KEY(left_id) REFERENCES item (id),
    CONSTRAINT "rightItem" FOREIGN KEY(right_id) REFERENCES item (id)
);

CREATE INDEX ix_link_group ON link ("group");

ALTER TABLE "user" ADD COLUMN created_at TIMESTAMP WITH TIME ZONE;

COMMIT;
