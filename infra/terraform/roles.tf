# One role per function. What each may do follows the key layout (docs/format/keys.md): who puts what, and that the
# compactor alone deletes. scripts/check-terraform.sh reads these policies from the plan and fails when one grows.
locals {
  objects = "${aws_s3_bucket.store.arn}/${local.folder}"

  access = {
    query = {
      read   = ["c/*", "names/*", "store"]
      list   = ["c/*", "names/*"]
      write  = []
      delete = []
    }
    # Body and log of rows, uploads (who has a URL that it signed puts with its leave), the register (schemas widen,
    # collections are created and dropped), its copy, names, marks.
    ingest = {
      read = ["c/*", "names/*", "store"]
      list = ["c/*", "names/*"]
      write = [
        "c/*/wal/*", "c/*/body/*", "c/*/inbox/*", "c/*/upload/*", "c/*/manifest/*", "c/*/head", "names/*", "dirty/*",
      ]
      delete = []
    }
    # Segments, bitmaps, the register and its stubs, its copy, state, marks of what it left. It deletes neither names nor the register.
    compactor = {
      read  = ["c/*", "names/*", "dirty/*", "store"]
      list  = ["c/*", "names/*", "dirty/*"]
      write = ["c/*/segment/*", "c/*/deletes/*", "c/*/manifest/*", "c/*/head", "c/*/work/*", "dirty/*"]
      delete = [
        "c/*/wal/*", "c/*/body/*", "c/*/inbox/*", "c/*/pins/*", "c/*/segment/*", "c/*/deletes/*", "c/*/work/*",
        "c/*/upload/*", "c/*/head", "dirty/*",
      ]
    }
  }
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "function" {
  for_each           = local.access
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.tags
}

data "aws_iam_policy_document" "store" {
  for_each = local.access

  # 404 is a proof of the protocol: without leave to list, S3 answers 403 for what does not exist. It then takes the key
  # for the prefix that is asked for, or none, hence "IfExists".
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.store.arn]

    condition {
      test     = "StringLikeIfExists"
      variable = "s3:prefix"
      values   = [for key in distinct(concat(each.value.list, each.value.read)) : "${local.folder}${key}"]
    }
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for key in each.value.read : "${local.objects}${key}"]
  }

  dynamic "statement" {
    for_each = length(each.value.write) > 0 ? [each.value.write] : []

    content {
      sid       = "Write"
      actions   = ["s3:AbortMultipartUpload", "s3:PutObject"]
      resources = [for key in statement.value : "${local.objects}${key}"]
    }
  }

  dynamic "statement" {
    for_each = length(each.value.delete) > 0 ? [each.value.delete] : []

    content {
      sid       = "Delete"
      actions   = ["s3:DeleteObject"]
      resources = [for key in statement.value : "${local.objects}${key}"]
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = length(each.value.write) > 0 ? ["kms:Decrypt", "kms:GenerateDataKey"] : ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "store" {
  for_each = local.access
  name     = "store"
  role     = aws_iam_role.function[each.key].id
  policy   = data.aws_iam_policy_document.store[each.key].json
}

data "aws_iam_policy_document" "log" {
  for_each = local.access

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.function[each.key].arn}:*"]
  }
}

resource "aws_iam_role_policy" "log" {
  for_each = local.access
  name     = "log"
  role     = aws_iam_role.function[each.key].id
  policy   = data.aws_iam_policy_document.log[each.key].json
}

# Delete by filter: query finds the ids, ingest writes the tombstones.
data "aws_iam_policy_document" "invoke" {
  statement {
    sid       = "DeleteByFilter"
    actions   = ["lambda:InvokeFunction"]
    resources = [aws_lambda_function.this["ingest"].arn]
  }
}

resource "aws_iam_role_policy" "invoke" {
  name   = "invoke"
  role   = aws_iam_role.function["query"].id
  policy = data.aws_iam_policy_document.invoke.json
}

# What the compactor did not get done after its retries goes to the dead letters, and messages that ingest cannot take.
data "aws_iam_policy_document" "dead_letters" {
  statement {
    sid       = "DeadLetters"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.dead_letters.arn]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "dead_letters" {
  for_each = toset(var.queue ? ["compactor", "ingest"] : ["compactor"])
  name     = "dead-letters"
  role     = aws_iam_role.function[each.key].id
  policy   = data.aws_iam_policy_document.dead_letters.json
}
