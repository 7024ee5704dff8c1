CREATE SCHEMA "Books";
CREATE TYPE "Books"."entryState" AS ENUM ('Open', 'Closed', 'half open');
CREATE TABLE "Books"."Account" (
  "Id" serial NOT NULL,
  "ownerName" varchar(40) NOT NULL,
  "select" integer NOT NULL DEFAULT 0,
  CONSTRAINT "pk_Account_Books_Account_Id" PRIMARY KEY ("Id"),
  CONSTRAINT "uq_Account_ownerNameselect_os" UNIQUE ("ownerName", "select"),
  CONSTRAINT "ck_Account_positive" CHECK ("select" >= 0)
);
CREATE INDEX "ix_Books_Account_ownerName" ON "Books"."Account" ("ownerName");
CREATE TABLE "Books"."Entry Line" (
  "Id" serial NOT NULL,
  "accountId" integer NOT NULL,
  "State" "Books"."entryState" NOT NULL DEFAULT 'half open',
  "Total Amount" numeric(12, 2) NOT NULL,
  "user" varchar,
  "Double Amount" numeric GENERATED ALWAYS AS ("Total Amount" * 2) STORED,
  CONSTRAINT "pk_Entry Line_Books_Entry Line_Id" PRIMARY KEY ("Id"),
  CONSTRAINT "fk_Entry Line_account_Account_Id" FOREIGN KEY ("accountId")
    REFERENCES "Books"."Account" ("Id"),
  CONSTRAINT "ck_Entry Line_amount" CHECK ("Total Amount" > 0)
);
CREATE INDEX "ix_Books_Entry Line_accountId_Books_Entry Line_State"
  ON "Books"."Entry Line" ("accountId", "State") INCLUDE ("Total Amount", "user");
CREATE INDEX "Entry by user" ON "Books"."Entry Line" (lower("user")) WHERE "State" <> 'Open';
CREATE INDEX "Entry by amount" ON "Books"."Entry Line" ("Total Amount" DESC);
CREATE TABLE "Books".pair (
  "left" integer NOT NULL,
  "right" integer NOT NULL,
  CONSTRAINT "pk_pair_Books_pair_left" PRIMARY KEY ("left", "right"),
  CONSTRAINT "fk_pair_left_Entry Line_Id" FOREIGN KEY ("left")
    REFERENCES "Books"."Entry Line" ("Id") ON DELETE CASCADE,
  CONSTRAINT "fk_pair_right_Entry Line_Id" FOREIGN KEY ("right")
    REFERENCES "Books"."Entry Line" ("Id")
);
CREATE INDEX "ix_Books_pair_right" ON "Books".pair ("right");
