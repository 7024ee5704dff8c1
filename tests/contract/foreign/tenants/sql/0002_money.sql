CREATE TABLE money.payment (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  room_id integer NOT NULL,
  day date NOT NULL,
  amount numeric(10, 2) NOT NULL,
  CONSTRAINT payment_for FOREIGN KEY (room_id, day) REFERENCES rooms.booking (room_id, day)
);
