-- PostGIS in small: an extension with types of its own, in a schema of its own, and a table.
-- Every server has plpgsql, so that one takes its place.
CREATE SCHEMA gis;
CREATE TYPE gis.geometry AS (wkb bytea, srid integer);
CREATE TYPE gis.raster AS (tile bytea);
CREATE TYPE gis.gauge AS ENUM ('broad', 'narrow');
CREATE TABLE spatial_ref_sys (srid integer PRIMARY KEY CHECK (srid > 0), srtext varchar(2048));
CREATE FUNCTION st_srid(gis.geometry) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1.srid';
ALTER EXTENSION plpgsql ADD TYPE gis.geometry;
ALTER EXTENSION plpgsql ADD TYPE gis.raster;
ALTER EXTENSION plpgsql ADD TYPE gis.gauge;
ALTER EXTENSION plpgsql ADD TABLE spatial_ref_sys;
ALTER EXTENSION plpgsql ADD FUNCTION st_srid(gis.geometry);
