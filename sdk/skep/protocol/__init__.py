"""The wire protocol without I/O and without a clock: bytes in, values out. Import the module you need; this
package re-exports nothing, because importing every framing would double the start-up time of a small node.
"""
