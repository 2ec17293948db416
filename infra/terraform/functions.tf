locals {
  packages = coalesce(var.packages, abspath("${path.module}/../../target/lambda/${var.architecture}"))

  functions = {
    ingest    = merge(var.ingest, { disk = 512 })
    query     = merge(var.query, { disk = 512 })
    compactor = var.compactor
  }

  zips = { for name in keys(local.functions) : name => "${local.packages}/${name}.zip" }
}

check "packages" {
  assert {
    condition     = alltrue([for zip in local.zips : fileexists(zip)])
    error_message = "${local.packages} lacks a package: run infra/package.sh, or set packages. Applying this plan would fail."
  }
}

resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_338:Retention is log_days; a year of request logs is the account's to want
  for_each          = local.functions
  name              = "/aws/lambda/${var.name}-${each.key}"
  retention_in_days = var.log_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_50:Each log line has the request id and what it asked of the store; X-Ray would need a policy on all resources
  #checkov:skip=CKV_AWS_116:Ingest and query are called synchronously; the compactor has a destination for failures
  #checkov:skip=CKV_AWS_117:S3 is all that they reach; in a VPC each would need an endpoint and start later
  #checkov:skip=CKV_AWS_173:The variables hold no secrets
  #checkov:skip=CKV_AWS_272:Packages are built and hashed where terraform runs; signing needs an account's own profile
  for_each         = local.functions
  function_name    = "${var.name}-${each.key}"
  description      = "Esker: ${each.key}"
  role             = aws_iam_role.function[each.key].arn
  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.architecture]
  filename         = local.zips[each.key]
  source_code_hash = fileexists(local.zips[each.key]) ? filebase64sha256(local.zips[each.key]) : null

  memory_size                    = each.value.memory
  timeout                        = each.value.timeout
  reserved_concurrent_executions = each.value.concurrency

  ephemeral_storage {
    size = each.value.disk
  }

  environment {
    variables = merge(
      var.environment,
      { ESKER_STORE = local.store },
      # By its name: the functions refer to each other, and a name is known before.
      each.key == "query" ? { ESKER_INGEST_FUNCTION = "${var.name}-ingest" } : {},
      # Keeps what a compaction holds near what it plans (docs/operations/memory.md).
      each.key == "compactor" ? { MALLOC_MMAP_THRESHOLD_ = "524288", MALLOC_TRIM_THRESHOLD_ = "524288" } : {},
      each.key == "ingest" && var.queue ? { ESKER_DEAD_LETTERS = aws_sqs_queue.dead_letters.url } : {},
    )
  }

  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.function[each.key].name
  }

  tags = var.tags

  # A role without its policies would have the first calls fail.
  depends_on = [aws_iam_role_policy.store, aws_iam_role_policy.log]
}

# Events that the compactor could not work on: twice more, then a dead letter.
resource "aws_lambda_function_event_invoke_config" "compactor" {
  function_name                = aws_lambda_function.this["compactor"].function_name
  maximum_event_age_in_seconds = 21600
  maximum_retry_attempts       = 2

  destination_config {
    on_failure {
      destination = aws_sqs_queue.dead_letters.arn
    }
  }

  depends_on = [aws_iam_role_policy.dead_letters]
}
