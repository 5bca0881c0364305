/*
 * The first sector of a disk that a BIOS boots: reads the second one through the BIOS, prints it up to its NUL to COM1, writes it
 * to the third, and gives 0x10 to the debug exit; 0x11 if the BIOS cannot read, 0x12 if it cannot write.
 */
#define COM1 0x3f8
#define DEBUG_EXIT 0xf4
/* INT 0x13 with a packet that names sectors by number (Enhanced Disk Drive specification 1.1). */
#define READ_SECTORS 0x42
#define WRITE_SECTORS 0x43
#define BUFFER 0x7e00

	.code16
	.globl	_start
_start:
	/* Some come here as 0x07c0:0. */
	ljmp	$0, $start
start:
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %ss
	movw	$_start, %sp
	cld

	/* The BIOS left the drive's number in DL. */
	movw	$packet, %si
	movb	$READ_SECTORS, %ah
	int	$0x13
	movb	$0x11, %al
	jc	exit

	pushw	%dx
	movw	$BUFFER, %si
	movw	$COM1, %dx
	/* The BIOS prints what it said before when the timer interrupts. */
	cli
print:
	lodsb
	testb	%al, %al
	jz	printed
	outb	%al, %dx
	jmp	print
printed:
	sti
	popw	%dx

	movb	$2, packet_sector
	movw	$packet, %si
	/* Without verification. */
	movw	$WRITE_SECTORS << 8, %ax
	int	$0x13
	movb	$0x12, %al
	jc	exit
	movb	$0x10, %al
exit:
	outb	%al, $DEBUG_EXIT
	cli
	hlt

	.balign	4
packet:
	/* Its size, sectors, buffer. */
	.byte	16, 0
	.word	1, BUFFER, 0
packet_sector:
	.quad	1

	.org	510
	.word	0xaa55
