-- Written at revision es0003: an open stream, one with an idempotency key, one with tags that is
-- deleted, and burned numbers (3 and 6) between.
INSERT INTO streams (stream_id, version, created_at, updated_at, deleted_at) VALUES
    ('order-1', 2, '2024-02-29 23:59:59.999999+00', '2024-03-01 08:00:00+00', NULL),
    ('order-2', 1, '2024-03-01 09:30:00+01', '2024-03-01 09:30:00+01', NULL),
    ('Konto-ü/7 "x"', 2, '2024-03-02 00:00:00+00', '2024-03-05 00:00:00+00',
     '2024-03-05 00:00:00+00');

INSERT INTO events (sequence_number, event_id, stream_id, aggregate_id, aggregate_type, event_type,
                    event_data, event_version, occurred_at, metadata, created_at) VALUES
    (1, '018df6e3-57ff-7000-8000-000000000001', 'order-1', 'order-1', 'Order', 'order_placed',
     '{"lines": [{"sku": "A-1", "count": 2}], "note": null}', 1,
     '2024-02-29 23:59:59.999999+00', '{"correlation_id": "c-1"}', '2024-03-01 00:00:00+00'),
    (2, '018df89a-d800-7000-8000-000000000002', 'order-1', 'order-1', 'Order', 'order_paid',
     '{"amount": "19.90", "big": 12345678901234567890, "small": 1e-7}', 2,
     '2024-03-01 08:00:00+00', '{"causation_id": "018df6e3-57ff-7000-8000-000000000001"}',
     '2024-03-01 08:00:00.000001+00'),
    (4, '018df8e2-3b40-7000-8000-000000000003', 'order-2', 'basket-2', 'Order', 'order_placed',
     '{}', 1, '2024-03-01 09:30:00+01',
     '{"idempotency_key": "request-2", "user_id": "u-1", "further": {"kept": true}}',
     '2024-03-01 09:30:00+01'),
    (5, '018dfc0a-2400-7000-8000-000000000004', 'Konto-ü/7 "x"', 'Konto-ü/7 "x"', 'Konto',
     'eröffnet', '{"Inhaberin": "Zoë \"Z\" 😀", "line": "a\nb\\c"}', 1,
     '2024-03-02 00:00:00+00', '{"$tags": ["konto:7", "inhaberin:zoë"]}',
     '2024-03-02 00:00:00+00'),
    (7, '018e0b7d-0800-7000-8000-000000000005', 'Konto-ü/7 "x"', 'Konto-ü/7 "x"', 'Konto',
     'geschlossen', '{}', 2, '1900-01-01 00:00:00+00', '{}', '2024-03-05 00:00:00+00');

INSERT INTO event_tags (tag, sequence_number) VALUES ('konto:7', 5), ('inhaberin:zoë', 5);

SELECT setval('events_sequence_number_seq', 7, true);

INSERT INTO snapshots (aggregate_id, aggregate_type, version, data, created_at) VALUES
    ('order-1', 'Order', 2, '{"state": "paid", "total": 19.90}', '2024-03-01 08:00:01+00'),
    ('Konto-ü/7 "x"', 'Konto', 1, '{"open": true}', '2024-03-02 00:00:01+00');

INSERT INTO subscriptions (name, partition, partitions, checkpoint, owner, epoch, lease_expires_at,
                           marked_position, attempts, releases, version, filter_fingerprint,
                           last_error, last_error_position, last_error_at, updated_at) VALUES
    ('board', 0, 1, 5, NULL, 3, NULL, NULL, 0, 1, 2,
     'c8c6a4bd0dc1c5f3a1b1e0d0b59d5d7f8ad7f2e1b6f47ef0f4a1d3b2c1a09f8e',
     'ValueError: no', 4, '2024-03-05 00:00:00+00', '2024-03-05 00:00:00+00'),
    ('mails', 0, 2, 7, 'host:1:a', 1, '2024-03-05 00:00:30+00', 7, 2, 0, 1,
     'c8c6a4bd0dc1c5f3a1b1e0d0b59d5d7f8ad7f2e1b6f47ef0f4a1d3b2c1a09f8e',
     NULL, NULL, NULL, '2024-03-05 00:00:00+00'),
    ('mails', 1, 2, 4, 'host:1:a', 1, '2024-03-05 00:00:30+00', NULL, 0, 0, 1,
     'c8c6a4bd0dc1c5f3a1b1e0d0b59d5d7f8ad7f2e1b6f47ef0f4a1d3b2c1a09f8e',
     NULL, NULL, NULL, '2024-03-05 00:00:00+00');

INSERT INTO subscription_workers (subscription, worker, expires_at) VALUES
    ('mails', 'host:1:a', '2024-03-05 00:00:30+00');

INSERT INTO parked_streams (subscription, stream_id, position, event_version, event_id, error,
                            traceback, attempts, parked_at, last_attempt_at) VALUES
    ('board', 'order-2', 4, 1, '018df8e2-3b40-7000-8000-000000000003', 'ValueError: no',
     'Traceback', 5, '2024-03-05 00:00:00+00', '2024-03-05 00:00:00+00');
