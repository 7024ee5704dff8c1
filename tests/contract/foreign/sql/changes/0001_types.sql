CREATE TYPE order_status AS ENUM ('new', 'paid', 'sent');
CREATE DOMAIN email AS text CONSTRAINT email_check CHECK (VALUE LIKE '%@%');
CREATE SEQUENCE order_number AS bigint INCREMENT BY 10 START WITH 1000;
CREATE SEQUENCE other_number;
