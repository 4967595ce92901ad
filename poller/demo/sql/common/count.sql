SELECT count(*) FROM demo.tasks0
