-- settings: what seed.sql reads; placeholders are filled by the demo
SELECT set_config('demo.tasks', '{tasks}', false), set_config('demo.upstream', '{upstream}', false);
