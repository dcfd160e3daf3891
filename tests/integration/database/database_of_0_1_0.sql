-- A database that 0.1.0 made: its schema hms_tune, and a study half done. Optuna's tables are Optuna's to make.
-- Trial 0 is complete, 1 and 5 are pruned (5 goes on after 4, which was handed back), 2 was declined, 3 failed,
-- 6 was lost, 7 goes on after it and its worker is dead too, and one that a person enqueued waits.
CREATE SCHEMA hms_tune;
CREATE TABLE hms_tune.leases (
    lease_id bigint NOT NULL,
    study_id integer NOT NULL,
    lineage_id bigint NOT NULL,
    worker_id text NOT NULL,
    slot text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    process_started bigint,
    machine text,
    gpus double precision DEFAULT '0'::double precision NOT NULL,
    token text,
    trial_id integer,
    number integer,
    claimed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    outcome text
);
CREATE SEQUENCE hms_tune.leases_lease_id_seq;
ALTER SEQUENCE hms_tune.leases_lease_id_seq OWNED BY hms_tune.leases.lease_id;
CREATE TABLE hms_tune.lineages (
    lineage_id bigint NOT NULL,
    study_id integer NOT NULL,
    state text NOT NULL,
    wanted text DEFAULT 'run'::text NOT NULL,
    given jsonb,
    losses integer DEFAULT 0 NOT NULL,
    first_number integer,
    last_trial_id integer,
    outcome text,
    reason text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT lineage_state CHECK ((state = ANY (ARRAY['claimed'::text, 'waiting'::text, 'ended'::text]))),
    CONSTRAINT lineage_wanted CHECK ((wanted = ANY (ARRAY['run'::text, 'stop'::text])))
);
CREATE SEQUENCE hms_tune.lineages_lineage_id_seq;
ALTER SEQUENCE hms_tune.lineages_lineage_id_seq OWNED BY hms_tune.lineages.lineage_id;
CREATE TABLE hms_tune.notices (
    study_id integer NOT NULL,
    happening text NOT NULL,
    subject text NOT NULL,
    message jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    taken_by text,
    taken_at timestamp with time zone,
    sent_at timestamp with time zone,
    failure text
);
CREATE TABLE hms_tune.out_of_fold (
    study_id integer NOT NULL,
    number integer NOT NULL,
    content bytea NOT NULL,
    published_at timestamp with time zone,
    written_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE hms_tune.studies (
    study_id integer NOT NULL,
    name text NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    budget_trials integer,
    budget_hours double precision,
    budget_gpu_hours double precision,
    slots_started integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_at timestamp with time zone,
    CONSTRAINT study_state CHECK ((state = ANY (ARRAY['running'::text, 'paused'::text, 'stopped'::text])))
);
CREATE TABLE hms_tune.trial_records (
    study_id integer NOT NULL,
    number integer NOT NULL,
    lineage integer NOT NULL,
    config jsonb,
    folds jsonb,
    outcome text,
    reason text,
    traceback text,
    device text,
    device_name text,
    gpus double precision DEFAULT '0'::double precision NOT NULL,
    peak_memory bigint,
    data_digest text,
    version text,
    run_url text,
    note text,
    written_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE hms_tune.worker_minutes (
    worker_id text NOT NULL,
    minute timestamp with time zone NOT NULL,
    study_id integer NOT NULL,
    images bigint NOT NULL
);
CREATE TABLE hms_tune.workers (
    worker_id text NOT NULL,
    study_id integer NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    process_started bigint,
    machine text,
    version text NOT NULL,
    devices text NOT NULL,
    slots integer NOT NULL,
    wanted text DEFAULT 'work'::text NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_seen timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    stopped_at timestamp with time zone,
    usage jsonb,
    CONSTRAINT worker_wanted CHECK ((wanted = ANY (ARRAY['work'::text, 'finish'::text, 'leave'::text])))
);
ALTER TABLE ONLY hms_tune.leases ALTER COLUMN lease_id SET DEFAULT nextval('hms_tune.leases_lease_id_seq'::regclass);
ALTER TABLE ONLY hms_tune.lineages ALTER COLUMN lineage_id SET DEFAULT nextval('hms_tune.lineages_lineage_id_seq'::regclass);
ALTER TABLE hms_tune.leases ADD CONSTRAINT leases_pkey PRIMARY KEY (lease_id);
ALTER TABLE hms_tune.leases ADD CONSTRAINT leases_token_key UNIQUE (token);
ALTER TABLE hms_tune.lineages ADD CONSTRAINT lineages_pkey PRIMARY KEY (lineage_id);
ALTER TABLE hms_tune.notices ADD CONSTRAINT notices_pkey PRIMARY KEY (study_id, happening, subject);
ALTER TABLE hms_tune.out_of_fold ADD CONSTRAINT out_of_fold_pkey PRIMARY KEY (study_id, number);
ALTER TABLE hms_tune.studies ADD CONSTRAINT studies_name_key UNIQUE (name);
ALTER TABLE hms_tune.studies ADD CONSTRAINT studies_pkey PRIMARY KEY (study_id);
ALTER TABLE hms_tune.trial_records ADD CONSTRAINT trial_records_pkey PRIMARY KEY (study_id, number);
ALTER TABLE hms_tune.worker_minutes ADD CONSTRAINT worker_minutes_pkey PRIMARY KEY (worker_id, minute);
ALTER TABLE hms_tune.workers ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id);
CREATE INDEX ix_hms_tune_lineages_study_id ON hms_tune.lineages USING btree (study_id);
CREATE INDEX ix_hms_tune_workers_study_id ON hms_tune.workers USING btree (study_id);
CREATE INDEX leases_of_study ON hms_tune.leases USING btree (study_id);
CREATE INDEX live_leases ON hms_tune.leases USING btree (study_id) WHERE (ended_at IS NULL);
CREATE INDEX minutes_of_study ON hms_tune.worker_minutes USING btree (study_id, minute);
CREATE UNIQUE INDEX one_lease_per_attempt ON hms_tune.leases USING btree (trial_id);
CREATE UNIQUE INDEX one_live_lease ON hms_tune.leases USING btree (lineage_id) WHERE (ended_at IS NULL);
ALTER TABLE hms_tune.leases ADD CONSTRAINT leases_lineage_id_fkey FOREIGN KEY (lineage_id) REFERENCES hms_tune.lineages(lineage_id) ON DELETE CASCADE;
ALTER TABLE hms_tune.leases ADD CONSTRAINT leases_study_id_fkey FOREIGN KEY (study_id) REFERENCES hms_tune.studies(study_id) ON DELETE CASCADE;
ALTER TABLE hms_tune.lineages ADD CONSTRAINT lineages_study_id_fkey FOREIGN KEY (study_id) REFERENCES hms_tune.studies(study_id) ON DELETE CASCADE;
ALTER TABLE hms_tune.notices ADD CONSTRAINT notices_study_id_fkey FOREIGN KEY (study_id) REFERENCES hms_tune.studies(study_id) ON DELETE CASCADE;
ALTER TABLE hms_tune.out_of_fold ADD CONSTRAINT out_of_fold_study_id_fkey FOREIGN KEY (study_id) REFERENCES hms_tune.studies(study_id) ON DELETE CASCADE;
ALTER TABLE hms_tune.trial_records ADD CONSTRAINT trial_records_study_id_fkey FOREIGN KEY (study_id) REFERENCES hms_tune.studies(study_id) ON DELETE CASCADE;
ALTER TABLE hms_tune.worker_minutes ADD CONSTRAINT worker_minutes_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES hms_tune.workers(worker_id) ON DELETE CASCADE;
ALTER TABLE hms_tune.workers ADD CONSTRAINT workers_study_id_fkey FOREIGN KEY (study_id) REFERENCES hms_tune.studies(study_id) ON DELETE CASCADE;

INSERT INTO public.studies (study_id, study_name) VALUES
    (1, 'half-done');
INSERT INTO public.study_directions (study_direction_id, direction, study_id, objective) VALUES
    (1, 'MINIMIZE', 1, 0);
INSERT INTO public.study_system_attributes (study_system_attribute_id, study_id, key, value_json) VALUES
    (1, 1, 'study:metric_names', '["KL"]');
INSERT INTO public.study_user_attributes (study_user_attribute_id, study_id, key, value_json) VALUES
    (1, 1, 'hms_tune:study_file', '"{\"format\": 1, \"source\": \"old.yaml\", \"text\": \"\\nstudy: half-done\\ndata: {folds: 2}\\ntraining: {epochs: 3, learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}\\nmodel: {backbone: test_resnet, pretrained: false}\\nsearch: {sampler: random, pruner: {name: median, startup_trials: 1, warmup_epochs: 0}, seed: 0}\\nbudget: {trials: 9}\\n\"}"'),
    (2, 1, 'hms_tune:space_hash', '"f534d9ea6f6d5a98"');
INSERT INTO public.trials (trial_id, number, study_id, state, datetime_start, datetime_complete) VALUES
    (1, 0, 1, 'COMPLETE', '2025-01-15 03:07:21', '2025-01-15 03:07:22'),
    (2, 1, 1, 'PRUNED', '2025-01-15 03:07:22', '2025-01-15 03:07:23'),
    (3, 2, 1, 'PRUNED', '2025-01-15 03:07:23', '2025-01-15 03:07:23'),
    (4, 3, 1, 'FAIL', '2025-01-15 03:07:23', '2025-01-15 03:07:24'),
    (5, 4, 1, 'FAIL', '2025-01-15 03:07:24', '2025-01-15 03:07:25'),
    (6, 5, 1, 'PRUNED', '2025-01-15 03:07:44', '2025-01-15 03:07:45'),
    (7, 6, 1, 'FAIL', '2025-01-15 03:07:45', '2025-01-15 03:08:03'),
    (8, 7, 1, 'RUNNING', '2025-01-15 03:08:03', NULL);
INSERT INTO public.trial_params (param_id, trial_id, param_name, param_value, distribution_json) VALUES
    (1, 1, 'training.learning_rate', 0.0023583149856152104, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.01, "log": true}}'),
    (2, 2, 'training.learning_rate', 0.0021955274759713175, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.01, "log": true}}'),
    (3, 3, 'training.learning_rate', 0.00019076594880186606, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.01, "log": true}}'),
    (4, 4, 'training.learning_rate', 0.0008427722915123549, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.01, "log": true}}'),
    (5, 5, 'training.learning_rate', 0.004546278463084971, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.01, "log": true}}'),
    (6, 6, 'training.learning_rate', 0.004546278463084971, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.01, "log": true}}'),
    (7, 7, 'training.learning_rate', 0.00023729097126308203, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.01, "log": true}}'),
    (8, 8, 'training.learning_rate', 0.00023729097126308203, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.01, "log": true}}');
INSERT INTO public.trial_values (trial_value_id, trial_id, objective, value, value_type) VALUES
    (1, 1, 0, 1.9023583149856151, 'FINITE'),
    (2, 2, 0, 3.1021955274759714, 'FINITE'),
    (3, 6, 0, 2.204546278463085, 'FINITE');
INSERT INTO public.trial_intermediate_values (trial_intermediate_value_id, trial_id, step, intermediate_value, intermediate_value_type) VALUES
    (1, 1, 1, 2.202358314985615, 'FINITE'),
    (2, 1, 2, 2.102358314985615, 'FINITE'),
    (3, 1, 3, 2.002358314985615, 'FINITE'),
    (4, 1, 4, 2.202358314985615, 'FINITE'),
    (5, 1, 5, 2.102358314985615, 'FINITE'),
    (6, 1, 6, 2.002358314985615, 'FINITE'),
    (7, 2, 1, 3.1021955274759714, 'FINITE'),
    (8, 4, 1, 2.000842772291512, 'FINITE'),
    (9, 4, 2, 1.9008427722915122, 'FINITE'),
    (10, 5, 1, 1.904546278463085, 'FINITE'),
    (11, 5, 2, 1.804546278463085, 'FINITE'),
    (12, 5, 3, 1.7045462784630852, 'FINITE'),
    (13, 6, 1, 2.204546278463085, 'FINITE'),
    (14, 7, 1, 2.100237290971263, 'FINITE'),
    (15, 7, 2, 2.0002372909712633, 'FINITE'),
    (16, 8, 1, 2.200237290971263, 'FINITE'),
    (17, 8, 2, 2.100237290971263, 'FINITE');
INSERT INTO public.trial_system_attributes (trial_system_attribute_id, trial_id, key, value_json) VALUES
    (1, 3, 'constraints:memory', '0.5'),
    (2, 6, 'fixed_params', '{"training.learning_rate": 0.004546278463084971}'),
    (3, 8, 'fixed_params', '{"training.learning_rate": 0.00023729097126308203}');
INSERT INTO public.trial_user_attributes (trial_user_attribute_id, trial_id, key, value_json) VALUES
    (1, 1, 'lease', '1'),
    (2, 1, 'lineage', '0'),
    (3, 1, 'worker', '"vm:cpu"'),
    (4, 1, 'config_hash', '"71c5b6e2260a8fd4"'),
    (5, 1, 'seconds', '3.0'),
    (6, 1, 'kl_all_rows', '1.9023583149856151'),
    (7, 1, 'kl_high_vote', 'null'),
    (8, 1, 'fold_kl', '[1.9023583149856151, 1.9023583149856151]'),
    (9, 1, 'best_epochs', '[1, 2]'),
    (10, 1, 'ended', '"complete"'),
    (11, 2, 'lease', '2'),
    (12, 2, 'lineage', '1'),
    (13, 2, 'worker', '"vm:cpu"'),
    (14, 2, 'config_hash', '"01e85174cb212ef0"'),
    (15, 2, 'seconds', '0.5'),
    (16, 2, 'ended', '"pruned"'),
    (17, 2, 'reason', '"pruned"'),
    (18, 3, 'lease', '3'),
    (19, 3, 'lineage', '2'),
    (20, 3, 'worker', '"vm:cpu"'),
    (21, 3, 'config_hash', '"d4dcac3f3e9aebab"'),
    (22, 3, 'cause', '"hyperparameters"'),
    (23, 3, 'ended', '"declined"'),
    (24, 3, 'reason', '"the trial needs more memory than the device has"'),
    (25, 4, 'lease', '4'),
    (26, 4, 'lineage', '3'),
    (27, 4, 'worker', '"vm:cpu"'),
    (28, 4, 'config_hash', '"4eee2e3e25c73138"'),
    (29, 4, 'ended', '"failed"'),
    (30, 4, 'reason', '"ValueError: a fault of the code"'),
    (31, 5, 'lease', '5'),
    (32, 5, 'lineage', '4'),
    (33, 5, 'worker', '"vm:cpu"'),
    (34, 5, 'config_hash', '"d77f36340af0f3d5"'),
    (35, 5, 'ended', '"handed_back"'),
    (36, 5, 'reason', '"handed back: the worker was asked to stop"'),
    (37, 6, 'lease', '6'),
    (38, 6, 'continues', '4'),
    (39, 6, 'lineage', '4'),
    (40, 6, 'worker', '"vm:cpu"'),
    (41, 6, 'config_hash', '"d77f36340af0f3d5"'),
    (42, 6, 'seconds', '0.5'),
    (43, 6, 'ended', '"pruned"'),
    (44, 6, 'reason', '"pruned"'),
    (45, 7, 'lease', '7'),
    (46, 7, 'lineage', '6'),
    (47, 7, 'worker', '"vm:cpu"'),
    (48, 7, 'config_hash', '"ee9907f1c5fa309b"'),
    (49, 7, 'ended', '"lost"'),
    (50, 7, 'reason', '"lease lost"'),
    (51, 8, 'lease', '8'),
    (52, 8, 'continues', '6'),
    (53, 8, 'lineage', '6'),
    (54, 8, 'worker', '"vm:cpu"'),
    (55, 8, 'config_hash', '"ee9907f1c5fa309b"');
INSERT INTO hms_tune.studies (study_id, name, state, budget_trials, budget_hours, budget_gpu_hours, slots_started, created_at, started_at) VALUES
    (1, 'half-done', 'running', 9, NULL, NULL, 4, '2025-01-15 03:07:21+00', '2025-01-15 03:07:21+00');
INSERT INTO hms_tune.workers (worker_id, study_id, host, pid, process_started, machine, version, devices, slots, wanted, started_at, last_seen, stopped_at, usage) VALUES
    ('worker-b', 1, 'vm', 1, NULL, NULL, '0.1.0', 'cpu', 1, 'work', '2025-01-15 03:08:19+00', '2025-01-15 03:08:19+00', NULL, NULL);
INSERT INTO hms_tune.lineages (lineage_id, study_id, state, wanted, given, losses, first_number, last_trial_id, outcome, reason, created_at, ended_at) VALUES
    (1, 1, 'ended', 'run', NULL, 0, 0, 1, 'complete', NULL, '2025-01-15 03:07:21+00', '2025-01-15 03:07:22+00'),
    (2, 1, 'ended', 'run', NULL, 0, 1, 2, 'pruned', 'pruned', '2025-01-15 03:07:22+00', '2025-01-15 03:07:23+00'),
    (3, 1, 'ended', 'run', NULL, 0, 2, 3, 'declined', 'the trial needs more memory than the device has', '2025-01-15 03:07:23+00', '2025-01-15 03:07:23+00'),
    (4, 1, 'ended', 'run', NULL, 0, 3, 4, 'failed', 'ValueError: a fault of the code', '2025-01-15 03:07:23+00', '2025-01-15 03:07:24+00'),
    (5, 1, 'ended', 'run', NULL, 0, 4, 6, 'pruned', 'pruned', '2025-01-15 03:07:24+00', '2025-01-15 03:07:45+00'),
    (6, 1, 'claimed', 'run', NULL, 1, 6, 8, NULL, NULL, '2025-01-15 03:07:45+00', NULL),
    (7, 1, 'waiting', 'run', '{"training.learning_rate": 0.002}', 0, NULL, NULL, NULL, NULL, '2025-01-15 03:08:15+00', NULL);
INSERT INTO hms_tune.leases (lease_id, study_id, lineage_id, worker_id, slot, host, pid, process_started, machine, gpus, token, trial_id, number, claimed_at, expires_at, ended_at, outcome) VALUES
    (1, 1, 1, 'worker-a', 'cpu', 'vm', 14522, 363589, 'machine', 0.0, '50864134', 1, 0, '2025-01-15 03:07:21+00', '2025-01-15 03:08:21+00', '2025-01-15 03:07:22+00', 'complete'),
    (2, 1, 2, 'worker-a', 'cpu', 'vm', 14522, 363589, 'machine', 0.0, '9952454e', 2, 1, '2025-01-15 03:07:22+00', '2025-01-15 03:08:22+00', '2025-01-15 03:07:23+00', 'pruned'),
    (3, 1, 3, 'worker-a', 'cpu', 'vm', 14522, 363589, 'machine', 0.0, '5f96b1aa', 3, 2, '2025-01-15 03:07:23+00', '2025-01-15 03:08:23+00', '2025-01-15 03:07:23+00', 'declined'),
    (4, 1, 4, 'worker-a', 'cpu', 'vm', 14522, 363589, 'machine', 0.0, '8c79e494', 4, 3, '2025-01-15 03:07:23+00', '2025-01-15 03:08:23+00', '2025-01-15 03:07:24+00', 'failed'),
    (5, 1, 5, 'worker-a', 'cpu', 'vm', 14522, 363589, 'machine', 0.0, '96cb73f8', 5, 4, '2025-01-15 03:07:24+00', '2025-01-15 03:08:24+00', '2025-01-15 03:07:25+00', 'handed_back'),
    (6, 1, 5, 'worker-b', 'cpu', 'vm', 14914, 365904, 'machine', 0.0, 'a2f76cc9', 6, 5, '2025-01-15 03:07:44+00', '2025-01-15 03:08:44+00', '2025-01-15 03:07:45+00', 'pruned'),
    (7, 1, 6, 'worker-b', 'cpu', 'vm', 14914, 365904, 'machine', 0.0, '64d6c309', 7, 6, '2025-01-15 03:07:45+00', '2025-01-15 03:08:45+00', '2025-01-15 03:08:03+00', 'lost'),
    (8, 1, 6, 'worker-b', 'cpu', 'vm', 15056, 367732, 'machine', 0.0, 'a1723991', 8, 7, '2025-01-15 03:08:03+00', '2025-01-15 03:09:03+00', NULL, NULL);
INSERT INTO hms_tune.notices (study_id, happening, subject, message, created_at, taken_by, taken_at, sent_at, failure) VALUES
    (1, 'new_best', '0', '{}', '2025-01-15 03:08:19+00', NULL, NULL, '2025-01-15 03:08:19+00', NULL);
INSERT INTO hms_tune.trial_records (study_id, number, lineage, outcome, reason, traceback, device, device_name, gpus, data_digest, version, note) VALUES
    (1, 0, 0, 'complete', NULL, NULL, 'cpu', 'AMD EPYC', 0.0, 'd1', '0.1.0', '**Complete: KL 1.9024.**'),
    (1, 1, 1, 'pruned', 'pruned', NULL, 'cpu', 'AMD EPYC', 0.0, 'd1', '0.1.0', '**Pruned in fold 1 after epoch 1 of 3: its estimate was 3.1022, the median of 1 earlier ones there 2.2024.**'),
    (1, 3, 3, 'failed', 'ValueError: a fault of the code', 'ValueError: a fault of the code', 'cpu', 'AMD EPYC', 0.0, 'd1', '0.1.0', '**Failed: ValueError: a fault of the code.**'),
    (1, 4, 4, 'handed_back', 'handed back: the worker was asked to stop', NULL, 'cpu', 'AMD EPYC', 0.0, 'd1', '0.1.0', '**Handed back: the worker was asked to stop; it goes on as trial 5.**'),
    (1, 5, 4, 'pruned', 'pruned', NULL, 'cpu', 'AMD EPYC', 0.0, 'd1', '0.1.0', '**Pruned in fold 1 after epoch 1 of 3: its estimate was 2.2045, the median of 1 earlier ones there 2.2024.**');
INSERT INTO hms_tune.out_of_fold (study_id, number, content, published_at, written_at) VALUES
    (1, 0, '\x504b', NULL, '2025-01-15 03:07:22+00');
SELECT setval(pg_get_serial_sequence('public.studies', 'study_id'), (SELECT max(study_id) FROM public.studies));
SELECT setval(pg_get_serial_sequence('public.study_directions', 'study_direction_id'), (SELECT max(study_direction_id) FROM public.study_directions));
SELECT setval(pg_get_serial_sequence('public.study_system_attributes', 'study_system_attribute_id'), (SELECT max(study_system_attribute_id) FROM public.study_system_attributes));
SELECT setval(pg_get_serial_sequence('public.study_user_attributes', 'study_user_attribute_id'), (SELECT max(study_user_attribute_id) FROM public.study_user_attributes));
SELECT setval(pg_get_serial_sequence('public.trials', 'trial_id'), (SELECT max(trial_id) FROM public.trials));
SELECT setval(pg_get_serial_sequence('public.trial_params', 'param_id'), (SELECT max(param_id) FROM public.trial_params));
SELECT setval(pg_get_serial_sequence('public.trial_values', 'trial_value_id'), (SELECT max(trial_value_id) FROM public.trial_values));
SELECT setval(pg_get_serial_sequence('public.trial_intermediate_values', 'trial_intermediate_value_id'), (SELECT max(trial_intermediate_value_id) FROM public.trial_intermediate_values));
SELECT setval(pg_get_serial_sequence('public.trial_system_attributes', 'trial_system_attribute_id'), (SELECT max(trial_system_attribute_id) FROM public.trial_system_attributes));
SELECT setval(pg_get_serial_sequence('public.trial_user_attributes', 'trial_user_attribute_id'), (SELECT max(trial_user_attribute_id) FROM public.trial_user_attributes));
SELECT setval(pg_get_serial_sequence('hms_tune.lineages', 'lineage_id'), (SELECT max(lineage_id) FROM hms_tune.lineages));
SELECT setval(pg_get_serial_sequence('hms_tune.leases', 'lease_id'), (SELECT max(lease_id) FROM hms_tune.leases));
