BEGIN;

{script}

{record};

COMMIT;
