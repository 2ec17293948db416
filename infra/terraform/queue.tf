resource "aws_sqs_queue" "dead_letters" {
  name                              = "${var.name}-dead-letters"
  message_retention_seconds         = 1209600
  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : 300
  tags                              = var.tags
}

# Writes of many small writers (docs/operations/functions.md): the id of a message is the key under which it is written
# once. Messages that can never be taken are put away at once with the reason; others that fail, after five times.
resource "aws_sqs_queue" "writes" {
  count = var.queue ? 1 : 0
  name  = "${var.name}-writes"
  # Six times the function's timeout, as AWS advises: batches that wait for a free function do not come twice.
  visibility_timeout_seconds = 6 * var.ingest.timeout
  # Tokens are remembered for 24 h (RFC 0009): a message that is older could be written twice.
  message_retention_seconds         = 43200
  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : 300
  tags                              = var.tags

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = 5
  })
}

resource "aws_lambda_event_source_mapping" "writes" {
  count                              = var.queue ? 1 : 0
  event_source_arn                   = aws_sqs_queue.writes[0].arn
  function_name                      = aws_lambda_function.this["ingest"].arn
  batch_size                         = 100
  maximum_batching_window_in_seconds = 1
  function_response_types            = ["ReportBatchItemFailures"]

  # One collection commits some 15 times a second: more functions at once would only wait for each other.
  scaling_config {
    maximum_concurrency = 8
  }

  depends_on = [aws_iam_role_policy.writes]
}

data "aws_iam_policy_document" "writes" {
  count = var.queue ? 1 : 0

  statement {
    sid       = "Queue"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    resources = [aws_sqs_queue.writes[0].arn]
  }
}

resource "aws_iam_role_policy" "writes" {
  count  = var.queue ? 1 : 0
  name   = "writes"
  role   = aws_iam_role.function["ingest"].id
  policy = data.aws_iam_policy_document.writes[0].json
}
