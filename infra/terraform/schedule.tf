# The backstop: short logs, entries whose mark was not put, and garbage.
resource "aws_cloudwatch_event_rule" "tick" {
  count               = var.tick == null ? 0 : 1
  name                = "${var.name}-tick"
  description         = "Esker: look for work and collect garbage"
  schedule_expression = var.tick
  tags                = var.tags
}

resource "aws_cloudwatch_event_target" "sweep" {
  count = var.tick == null ? 0 : 1
  rule  = aws_cloudwatch_event_rule.tick[0].name
  arn   = aws_lambda_function.this["compactor"].arn
  input = jsonencode({ sweep = true })
}

resource "aws_cloudwatch_event_target" "garbage" {
  count = var.tick == null ? 0 : 1
  rule  = aws_cloudwatch_event_rule.tick[0].name
  arn   = aws_lambda_function.this["compactor"].arn
  input = jsonencode({ gc = true })
}

resource "aws_lambda_permission" "tick" {
  count         = var.tick == null ? 0 : 1
  statement_id  = "tick"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this["compactor"].function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.tick[0].arn
}
