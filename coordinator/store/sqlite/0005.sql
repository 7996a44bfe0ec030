-- Sessions of people keep what the issuer said of them and not the role that it gave
-- them then. Who signed in before does so again.
DELETE FROM session WHERE json_extract(doc, '$.Token') IS NULL;
